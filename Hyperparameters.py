"""What a person may want to change, and the numbers of the report. Other constants stand where they are used."""
from pathlib import Path

# audio and log-mel spectrogram (report: data set)
sample_rate = 22050         # Hz
limit_s = 30                # seconds of each piece that are rendered and used for training
min_piece_s = 5             # seconds: shortest last piece of a longer recording
n_fft = 1024                # samples of a window
hop_length = 256            # samples between frames
clip_frames = limit_s * sample_rate // hop_length   # frames of a piece
n_mels = 128                # bands
top_db = 80                 # dB below the clip's maximum that count as silence
fmin = 0.0                  # Hz, lower edge of the mel filter bank
fmax = sample_rate / 2      # Hz, its upper edge

# second spectrogram, from which notes are transcribed: narrower bands, from a longer transform
lowest_key = 21             # MIDI number of the piano's lowest key, A0, 27.5 Hz
n_keys = 88                 # keys
pitch_n_fft = 4096          # samples of a window
pitch_hop_length = 2 * hop_length   # samples between steps
pitch_bands_per_key = 3     # bands in a semitone
n_pitches = 312             # bands, up to 11 kHz

# instruments: SoundFont, bank and program
piano_preset = ("FluidR3_GM.sf2", 0, 0)     # Yamaha Grand Piano
synth_preset = ("FluidR3_GM.sf2", 0, 5)     # electric piano of a DX7
gain = 0.4                  # FluidSynth's master gain
fluidsynth_room_size = 0.7  # of FluidSynth's reverberation, for presets with :room, from 0 to 1
fluidsynth_room_level = 0.5     # the same
fluidsynth_polyphony = 512  # voices at once
release_s = 1.0             # seconds after the last note
peak = 0.99                 # maximum of rendered wavs; full scale is 1

# recordings
tune_hertz = (392, 493)     # Hz: lowest and highest A that may be asked for
chunk_frames = 2592         # frames of a recording that are worked on at once, at most: 30 s, a multiple of 8
long_chunk_frames = 1728    # the same where a recording has several chunks; with their context they are as long
context_frames = 448        # more frames on both sides, so that a chunk comes out as it would within the whole

# training, all networks
validation_share = 0.2      # of the pieces
max_validation_pieces = 16  # pieces that the validation uses, at most
seed = 0                    # of the split, the crops and all that is drawn
crop_frames = 255           # frames of random crops; 0 for whole clips, as in the report
schedule = "linear"         # learning rate: warm-up, then a fall to zero; "constant" in the report
warmup_steps = 100          # steps, at most a tenth of all
gradient_norm = 1.0         # largest norm of the gradients; 0 for no limit
bfloat16 = True             # mixed precision in training and inference, on processors with bfloat16 arithmetic
checkpoint_minutes = 3      # minutes between checkpoints
few_pieces = 20             # pieces: weights of fewer never become the default model
log_epochs = 20             # epochs between pictures of one piece

# the report's autoencoder (report: L1 loss, Adam; ae_report has its other settings)
ae_epochs = 600
ae_batch_size = 16          # crops
ae_learning_rate = 2e-3
ae_channels = (256, 512, 512)   # of the three layers
ae_report = dict(network="report", channels=(64, 128, 256), batch_size=1, crop_frames=0, schedule="constant",
                 gradient_norm=0, bfloat16=False)

# training of the note autoencoder
note_epochs = 6             # of the encoder
note_batch_size = 4         # crops
note_learning_rate = 1e-3
scratch_learning_rate = 2e-3    # of an encoder that begins with random weights
note_piece_steps = 30       # steps of the encoder for each piece
note_min_steps = 400        # steps of the encoder in all, at least
note_max_steps = 2000       # at most
heard_share = 0.33          # of the crops of pairs, that are heard in a room
made_share = 0.5            # of the crops, that are made where there are both pairs and data/clips
head_epochs = 4
head_batch_size = 4         # clips
head_learning_rate = 5e-4
head_weight_decay = 0.02
head_versions = 3           # of each recording, dry and in rooms
head_clips = 120            # clips that the heads learn from, at most
table_epochs = 6            # of the table decoder
table_batch_size = 8        # crops
table_learning_rate = 2e-3
frame_loss_weight = 0.3     # of sounding keys, relative to a weight of 1 for onsets
velocity_loss_weight = 4    # of velocities, relative to the same

# note autoencoder: layers
encoder_form = dict(first=64, channels=64, stages=(1, 2, 4, 8, 16, 32), narrow=8, width=384, layers=7)
encoder_partials = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)    # in the pitch spectrogram, with the bands on both sides
encoder_mel_partials = (1, 2, 3, 4, 6)      # in the mel spectrogram, which has the finer time scale
sequence_form = dict(width=64, narrow=32, kernel=5, dilations=(1, 2, 4), dropout=0.2, limit=5)
decoder_silence = -300.0    # dB of a frame without notes
min_note_frames = 2.5       # frames of the shortest note
onset_width = 2.5           # frames over which the label of an onset falls to zero, on both sides

# training clips (rendering/clip_sources.py)
clip_pianos = (
    ("FluidR3_GM.sf2", 0, 0), ("FluidR3_GM.sf2", 0, 1), ("FluidR3_GM.sf2", 0, 3), ("Salamander.sf2", 0, 0),
    ("MuseScore_General_Full.sf3", 0, 0), ("MuseScore_General_Full.sf3", 0, 1), ("MuseScore_General_Full.sf3", 8, 0),
    ("sf_GMbank.sf2", 0, 0),
)
clip_others = tuple((soundfont, 0, program) for soundfont in ("MuseScore_General_Full.sf3", "sf_GMbank.sf2")
                    for program in (4, 6, 10, 11, 16, 19, 24, 25, 46))  # other instruments, for a third of the clips
clip_rooms = 120            # simulated rooms
clip_rooms_seed = 7
clip_lead_s = 6.0           # seconds before a clip, in which notes begin that may still sound

# U-Net (report: Adam; unet_report has its other settings)
unet_epochs = 50            # behind the report's autoencoder
note_unet_epochs = 10       # behind the note autoencoder
unet_batch_size = 8         # crops
unet_learning_rate = 1e-3
unet_depth = 4              # levels
unet_wf = 5                 # 2**wf channels in the first layer
unet_in_channels = 2        # autoencoder's output and recording; 1 for the first alone
unet_residual = False       # whether the input is connected to the last layer
unet_batch_norm = True
unet_loss = "l1"            # or "mse"
unet_gain_frames = 257      # behind a sampled voice: its correction is a gain, smoothed over so many frames
unet_gain_db = 15           # dB of this gain, at most
unet_report = dict(wf=6, in_channels=1, residual=False, batch_norm=False, loss="mse",
                   batch_size=1, crop_frames=0, schedule="constant", gradient_norm=0, bfloat16=False)

# mel spectrogram -> audio
inversion = "kl"            # "report": librosa's NNLS and Griffin-Lim from random phase
kl_iterations = 40
kl_floor = 1e-4             # added to the starting spectrum, relative to each frame's maximum
griffin_lim_iterations = 32
griffin_lim_momentum = 0.99
report_iterations = 32      # of the report's Griffin-Lim
voice_kl = dict(kl_iterations=8, kl_floor=1e-8)     # from the spectrum of a sampled voice, which is nearly the one
voice_griffin_lim_iterations = 4    # from its phase

# evaluation
onset_tolerance_s = 0.05    # seconds between a true onset and the one that is found

# paths, which do not depend on the working directory
root = Path(__file__).resolve().parent
data = root / "data"
models = data / "models"
soundfonts = root / "SoundFonts"    # comes first in the search, then the system's folders
system_soundfonts = (
    Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3"), Path("/usr/share/soundfonts"),
    Path("/usr/local/share/soundfonts"), Path("/usr/local/share/fluidsynth"), Path("/opt/homebrew/share/soundfonts"),
    Path("/opt/homebrew/share/fluid-synth/sf2"),
)
salamander = "Salamander.sf2"   # SoundFonts/salamander.py makes it
ae_weights = root / "ae.torch"
unet_weights = root / "unet.torch"
demo = data / "demo" / "mozart_rondo_alla_turca.wav"
