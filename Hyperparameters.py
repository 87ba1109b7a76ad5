"""The numbers of the report and of the system, and every path, under one name each. Imports nothing of ours."""
from pathlib import Path

# audio and log-mel spectrogram (report: data set)
sample_rate = 22050     # Hz
limit_s = 30            # seconds of each piece that are rendered and trained on
n_fft = 1024
hop_length = 256
clip_frames = limit_s * sample_rate // hop_length
n_mels = 128
top_db = 80             # dB below the clip's maximum that count as silence
fmin = 0.0              # Hz, lower edge of the mel filter bank
fmax = sample_rate / 2  # Hz, its upper edge

# notes, and the second spectrogram that they are heard in: bands of a third of a semitone from a longer transform
lowest_key = 21         # MIDI number of the piano's lowest key, A0, 27.5 Hz
n_keys = 88
pitch_n_fft = 4096
pitch_hop_length = 2 * hop_length
pitch_bands_per_key = 3
n_pitches = 312         # bands: up to 11 kHz

# instruments: SoundFont, bank and program, looked for in SoundFonts/ first, then in the system's folders
piano_preset = ("FluidR3_GM.sf2", 0, 0)     # Yamaha Grand Piano
synth_preset = ("FluidR3_GM.sf2", 0, 5)     # electric piano of a DX7
gain = 0.4              # FluidSynth's master gain; the rendered wav is brought to `peak` afterwards
release_s = 1.0         # seconds left to the last notes to die away
peak = 0.99             # largest sample of a wav that we write, of 1

bfloat16 = True         # mixed precision, in training and inference, where the processor computes with it

# training, both networks
validation_share = 0.2  # of the pieces
validation_pieces = 16  # of these, at most, on which an epoch is judged
seed = 0
crop_frames = 255       # random time crops; 0 trains on whole clips, as the report does
schedule = "linear"     # learning rate: warm-up, then down to zero; "constant" is the report's
warmup_steps = 100
augmented_share = 0.6   # of the crops, where --augmented is given
recorded_share = 0.7    # of the takes, where --recorded is given
n_rooms = 60            # that are simulated for them
n_reverbs = 30          # artificial ones beside them
voiced_share = 0.75     # of the takes, where --voiced is given
voiced_keys = 6         # neighbours that are voiced alike
most_resized = 6        # semitones by which the samples of a voiced piano are stretched
gradient_norm = 1.0     # gradients are clipped to this norm; 0 leaves them as they are
checkpoint_minutes = 3
log_epochs = 20         # a picture of one piece every so many epochs

# autoencoder (report: 600 epochs, L1 loss, Adam; what else differs from the report lies in ae_report)
ae_epochs = 600
ae_batch_size = 16
ae_learning_rate = 2e-3
ae_channels = (256, 512, 512)
onset_frames = 2.5          # over which the label of an onset falls to nothing, on both sides
candidate_threshold = 0.04  # how sure of an onset the encoder has to be for the reviewer to look at it
played_threshold = 0.45     # how sure the reviewer then has to be
reviewed_notes = 1024       # that it looks at at once
onset_threshold = 0.2       # how sure of an onset the encoder has to be without a reviewer
sounding_threshold = 0.3    # that the key sounds after it
ending_threshold = 0.45     # below which a note seems to have ended
shortest = 2.5              # frames that it lasts at least, whatever the reviewer says
end_lag = 1.5               # frames by which ends are put too late all the same
farthest = 60               # frames by which the reviewer learns to correct an end, at most
velocity_slope = 0.05       # by which a velocity's logarithm grows with each dB that a note begins louder
velocity_share = 0.5        # of velocities that is measured so; the rest is the encoder's
velocity_spread = 1.15      # of the velocities' logarithms around their mean, which are drawn to it
decoder_rate = 600          # times the learning rate: the decoder's weights are decibels
release_rate = 30           # the same for those in decibels a frame
level_share = 0.02          # weight of how far the level of a whole crop is off, in the decoder's loss
decoder_crops = 4           # of each batch, that the decoder learns from
decoder_frames = 256        # that the decoder works on at once
ae_report = dict(network="report", channels=(64, 128, 256), batch_size=1, crop_frames=0, schedule="constant",
                 gradient_norm=0, bfloat16=False)

# U-Net (report: 50 epochs, Adam; what differs lies in unet_report)
unet_epochs = 50
unet_batch_size = 8
unet_learning_rate = 1e-3
unet_depth = 4
unet_wf = 5             # 2**wf channels in the first layer
unet_in_channels = 2    # autoencoder's output and recording, or the first alone
unet_residual = False   # the last layer sees the input too
unet_batch_norm = True
unet_loss = "l1"
unet_report = dict(wf=6, in_channels=1, residual=False, batch_norm=False, loss="mse",
                   batch_size=1, crop_frames=0, schedule="constant", gradient_norm=0, bfloat16=False)

# mel spectrogram -> audio
inversion = "kl"        # "report": librosa's NNLS and Griffin-Lim from random phase
silent = 0.02           # of a network's output, up to which it counts as silence: 1.6 of 80 dB
kl_iterations = 40
kl_floor = 1e-4         # added to the starting spectrum, relative to each frame's maximum
griffin_lim_iterations = 32
griffin_lim_momentum = 0.99
chunk_frames = 2592     # most frames of a recording that are worked on at once: 30 s and a little, a multiple of 8
context_frames = 256    # more frames on both sides, so that a chunk comes out as it would within the whole
fade_frames = 16        # over which one chunk fades into the next
stereo_frames = 43      # over which the level of a channel is measured, band by band
stereo_limit = 16       # times the power of the mean, at most

# paths, wherever the scripts are started from
root = Path(__file__).resolve().parent
data = root / "data"
models = data / "models"
soundfonts = root / "SoundFonts"
system_soundfonts = (
    Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3"), Path("/usr/share/soundfonts"),
    Path("/usr/local/share/soundfonts"), Path("/usr/local/share/fluidsynth"), Path("/opt/homebrew/share/soundfonts"),
    Path("/opt/homebrew/share/fluid-synth/sf2"),
)
ae_weights = root / "ae.torch"
unet_weights = root / "unet.torch"
demo = data / "demo" / "mozart_rondo_alla_turca.wav"
