"""The mark inside each output file: a line that names the program, and digests of the recording and of the file.

The mark tells outputs from files of the user, whatever their names. A file that was edited no longer fits its digest.
"""
import hashlib
import re
import zlib

program = "converted by Main.py of Instrument resynthesis"
unsealed = "0" * 16
pattern = re.compile(rb"%b; recording ([0-9a-f]{16}); content ([0-9a-f]{16})" % program.encode())
head_bytes = 1 << 17    # beginning of a file, which holds the mark
reversed_bits = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def make_mark(digest):
    """Return the mark for the outputs of a recording with this digest. A writer puts it into the file, then calls
    `seal`."""
    return f"{program}; recording {digest}; content {unsealed}"


def seal(path):
    """Write the digest of a file's content into its mark. The file is wav, flac, ogg, mp3, m4a, MIDI, PNG or text."""
    with open(path, "r+b") as file:
        head = file.read(head_bytes)
        digest = content_digest(head, file)
        file.seek(0)
        file.write(set_digest(head, digest))


def read_mark(path):
    """Return the recording's digest in the mark of a file, and whether the file is as `seal` left it; or None."""
    try:
        with open(path, "rb") as file:
            head = file.read(head_bytes)
            found = pattern.search(head)
            return found and (found[1].decode(), content_digest(head, file) == found[2].decode())
    except (OSError, ValueError):  # it cannot be read, or the mark is not where a writer puts it
        return None


def content_digest(head, file):
    """Return a digest of a file before it was sealed: of its beginning `head`, and of all that `file` still reads."""
    started = hashlib.sha256(set_digest(head, unsealed))
    return hashlib.file_digest(file, lambda: started).hexdigest()[:16]


def set_digest(head, digest):
    """Return the beginning of a file with another digest in its mark. Checksums of PNG and ogg follow."""
    head, (start, end) = bytearray(head), pattern.search(head).span(2)
    head[start:end] = digest.encode()
    if head.startswith(b"\x89PNG"):  # the mark ends its chunk, and the checksum follows
        chunk = head[head.rindex(b"tEXt", 0, start):end]
        head[end:end + 4] = zlib.crc32(chunk).to_bytes(4, "big")
    elif head.startswith(b"OggS"):  # the checksum of a page is in its header
        first = head.rindex(b"OggS", 0, start)
        segments = head[first + 27:first + 27 + head[first + 26]]
        last = first + 27 + len(segments) + sum(segments)
        head[first + 22:first + 26] = bytes(4)
        head[first + 22:first + 26] = ogg_checksum(head[first:last]).to_bytes(4, "little")
    return bytes(head)


def ogg_checksum(page):
    """Return the checksum of a page of ogg: CRC-32 as in zlib, but with all bits reversed and without inversion."""
    checksum = zlib.crc32(page.translate(reversed_bits), 0xffffffff) ^ 0xffffffff
    return int(f"{checksum:032b}"[::-1], 2)
