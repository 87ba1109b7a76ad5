"""Write three short piano excerpts as MIDI files next to this script. The works are in the public domain, and
their notes are written out here, bar by bar:

    bach_prelude_c              Prelude in C major, BWV 846, bars 1-11
    satie_gymnopedie_1          Gymnopédie No. 1, bars 1-12
    mozart_rondo_alla_turca     Sonata K. 331, third movement, bars 1-8 twice and 9-24

A voice is a string of notes with "|" between the bars. "f#4/8" is an eighth note, "f#4/8." a dotted one, and
the notes after it keep that value until another is given; "c4+e4" is a chord, "r" a rest, and "-" holds the
note before it for one value more.
"""
from math import pi, sin
from pathlib import Path
from typing import NamedTuple

from mido import Message, MetaMessage, MidiFile, MidiTrack, bpm2tempo

BACH_BPM, SATIE_BPM, MOZART_BPM = 84, 72, 132  # a beat is a quarter note in all three pieces
TICKS_PER_BEAT = 480
PEDAL_LAG = 60  # ticks by which the foot goes down after the hands, so that the bar before does not blur in
ACCENT = 5      # velocity added on the first beat of a bar
SWELL = 10      # velocity added at the middle of a phrase, fading towards its ends
SEMITONES = "c d ef g a b"  # a letter's place here is its distance from c


class Voice(NamedTuple):
    notes: str
    loudness: int       # MIDI velocity before accents and swells
    touch: float = 1.0  # share of its written value that a key is held; short is staccato


class Excerpt(NamedTuple):
    bpm: int
    metre: int          # beats in a bar
    phrase: int         # bars in a phrase
    pedal: bool         # renewed in every bar
    right: list
    left: list


def bach():
    # Each bar is one chord, broken upwards over half a bar and then repeated; its lower two notes are held.
    chords = """c4 e4 g4 c5 e5 | c4 d4 a4 d5 f5 | b3 d4 g4 d5 f5 | c4 e4 g4 c5 e5 | c4 e4 a4 e5 a5 | c4 d4 f#4 a4 d5 |
        b3 d4 g4 d5 g5 | b3 c4 e4 g4 c5 | a3 c4 e4 g4 c5 | d3 a3 d4 f#4 c5 | g3 b3 d4 g4 b4""".split("|")

    def voice(half_bar, loudness):
        return Voice(" | ".join(f"{half_bar} {half_bar}".format(*chord.split()) for chord in chords), loudness)

    bass, tenor, treble = voice("{0}/2", 54), voice("r/16 {1}/8. -/4", 50), voice("r/8 {2}/16 {3} {4} {2} {3} {4}", 58)
    return Excerpt(BACH_BPM, metre=4, phrase=4, pedal=True, right=[treble], left=[bass, tenor])


def satie():
    melody = "r/2. | r | r | r | r/4 f#5 a5 | g5 f#5 c#5 | b4 c#5 d5 | a4/2. | f#4 | - | - | -"
    bass = " | ".join(["g2/2. | d2"] * 6)
    rocking = "r/4 b3+d4+f#4/2 | r/4 a3+c#4+f#4/2"
    under_melody = "r/4 b3+d4/2 | r/4 a3+c#4/2"  # from bar 9 on the melody holds the f#4
    chords = " | ".join([rocking] * 4 + [under_melody] * 2)
    return Excerpt(SATIE_BPM, metre=3, phrase=4, pedal=True, right=[Voice(melody, 68)],
                   left=[Voice(bass, 50), Voice(chords, 40)])


def mozart():
    # An empty beat fills up the bar of the upbeat, here and in the inner voice and the left hand.
    turn = "b4/16 a4 g#4 a4"
    rise = "c5/8 r d5/16 c5 b4 c5 | e5/8 r f5/16 e5 d#5 e5 | b5 a5 g#5 a5 b5 a5 g#5 a5"  # bars 1-3 and 17-19
    slide = "g5/32 a5 b5/16 f#5+a5/8 e5+g5"  # the two grace notes fall on the beat
    first = f"{rise} | c6/4 a5/8 c6 | {slide} f#5+a5 | {slide} f#5+a5 | {slide} d#5+f#5 | e5/4"
    major = "e5+g5 e5+g5 a5/16 g5 f5 e5 | d5/4"
    minor = "c5+e5 c5+e5 f5/16 e5 d5 c5 | b4/4"
    middle = f"c5+e5/8 d5+f5 | {major} c5+e5/8 d5+f5 | {major} a4+c5/8 b4+d5 | {minor} a4+c5/8 b4+d5 | {minor}"
    trill = "c5/32 b4 c5 b4 c5 b4 a4 b4"
    close = f"c6/4 a5/8 b5 | c6 b5 a5 g#5 | a5 e5 f5 d5 | c5/4 {trill} | a4/4 r"
    melody = f"r/4 {turn} | {first} {turn} | {first} {middle} {turn} | {rise} | {close}"
    # An inner voice steps down under the long notes of bars 10, 12, 14 and 16.
    inner = ("r/2 | " * 17 + "r | b4/8 g4 r/4 | r/2 | b4/8 g4 r/4 | r/2 | g#4/8 e4 r/4 | r/2 | g#4/8 e4 r/4"
             + " | r/2" * 8)

    tonic = "a3/8 c4+e4 c4+e4 c4+e4"
    drum = f"{tonic} | {tonic} | a3 c4+e4 a3 c4+e4"
    dominant = "e3 b3+e4 b3+e4 b3+e4"
    march = f"{drum} | {tonic} | {dominant} | {dominant} | e3 b3+e4 b2 b3 | e3/4 r"
    octaves = "c3/8 c4 e3 e4 | g3/4 r | c3/8 c4 e3 e4 | g3/4 r | a2/8 a3 c3 c4 | e3/4 r | a2/8 a3 c3 c4 | e3/4 r"
    cadence = "f3 a3+d#4 a3+d#4 a3+d#4 | e3 a3+e4 d3 f3+b3 | c3 e3+a3 d3 f3+b3 | e3+a3 e3+a3 e3+g#3 e3+g#3 | a2+a3/4 r"
    left = f"r/2 | {march} | {march} | {octaves} | {drum} | {cadence}"

    right = [Voice(melody, 68, touch=0.85), Voice(inner, 56, touch=0.85)]
    return Excerpt(MOZART_BPM, metre=2, phrase=8, pedal=False, right=right, left=[Voice(left, 50, touch=0.6)])


def key(name):
    """The MIDI number of a note such as "f#4"; c4 is 60."""
    return 12 * (int(name[-1]) + 1) + SEMITONES.index(name[0]) + name.count("#")


def ticks(value):
    """The length of a note value such as "4" or "8."."""
    whole = 4 * TICKS_PER_BEAT // int(value.rstrip("."))
    return whole * 3 // 2 if value.endswith(".") else whole


def read(notes, metre):
    """The chords of a voice as [start, length, keys], in ticks; every bar must fill its metre."""
    chords, length, now = [], 0, 0
    for number, bar in enumerate(notes.split("|"), 1):
        for token in bar.split():
            name, _, value = token.partition("/")
            length = ticks(value) if value else length
            if name == "-":
                chords[-1][1] += length
            elif name != "r":
                chords.append([now, length, [key(note) for note in name.split("+")]])
            now += length
        assert now == number * metre * TICKS_PER_BEAT, f"bar {number} does not fill its metre: {bar.strip()}"
    return chords


def hand(name, channel, voices, piece):
    """The track of one hand: its notes, louder on first beats and in the middle of phrases, and the pedal."""
    bar_ticks = piece.metre * TICKS_PER_BEAT
    messages = [MetaMessage("track_name", name=name)]
    for voice in voices:
        for start, length, keys in read(voice.notes, piece.metre):
            swell = sin(pi * (start / bar_ticks % piece.phrase) / piece.phrase)
            velocity = voice.loudness + ACCENT * (start % bar_ticks == 0) + round(SWELL * swell)
            for note in keys:
                messages.append(Message("note_on", channel=channel, note=note, velocity=velocity, time=start))
                messages.append(Message("note_off", channel=channel, note=note,
                                        time=start + round(length * voice.touch)))
    if piece.pedal:
        end = (voices[0].notes.count("|") + 1) * bar_ticks
        moves = [(bar + lag, value) for bar in range(0, end, bar_ticks) for lag, value in ((0, 0), (PEDAL_LAG, 127))]
        for time, value in moves + [(end + TICKS_PER_BEAT, 0)]:  # the last bar rings for one beat more
            messages.append(Message("control_change", channel=channel, control=64, value=value, time=time))

    # release a key before striking it again
    messages.sort(key=lambda message: (message.time, message.type == "note_on"))
    now = 0
    for message in messages:  # MIDI files count time from the event before
        message.time, now = message.time - now, message.time
    return MidiTrack(messages)


def write(piece, path):
    """Save an excerpt: a track for the tempo, then one for each hand."""
    bars = {voice.notes.count("|") for voice in piece.right + piece.left}
    assert len(bars) == 1, f"{path.stem}: voices differ in bars"
    tempo = MetaMessage("set_tempo", tempo=bpm2tempo(piece.bpm))
    metre = MetaMessage("time_signature", numerator=piece.metre, denominator=4)
    tracks = [MidiTrack([tempo, metre]), hand("right hand", 0, piece.right, piece),
              hand("left hand", 1, piece.left, piece)]
    MidiFile(type=1, ticks_per_beat=TICKS_PER_BEAT, tracks=tracks).save(path)


def main():
    folder = Path(__file__).resolve().parent
    write(bach(), folder / "bach_prelude_c.mid")
    write(satie(), folder / "satie_gymnopedie_1.mid")
    write(mozart(), folder / "mozart_rondo_alla_turca.mid")


if __name__ == "__main__":
    main()
