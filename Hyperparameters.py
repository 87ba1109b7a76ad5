"""All constants and paths of the project. Imports none of our modules."""
from pathlib import Path

# audio and log-mel spectrogram (report: data set)
sample_rate = 22050     # Hz
limit_s = 30            # seconds of each piece that are rendered and used for training
min_piece_s = 5         # shortest last piece of a longer recording
n_fft = 1024
hop_length = 256
clip_frames = limit_s * sample_rate // hop_length
n_mels = 128
top_db = 80             # dB below the clip's maximum that count as silence
fmin = 0.0              # Hz, lower edge of the mel filter bank
fmax = sample_rate / 2  # Hz, its upper edge

# recordings
cancelled_db = -20      # level of the mean of the channels below the loudest, at which they cancel each other
tuning_n_fft = 8192     # spectra whose peaks tell the tuning
tuning_frames = 3000    # of them at most, spread over the recording
tuning_hertz = (110, 2100)  # lowest and highest peak
tuning_floor_db = -30   # softest peak of a frame, below its loudest
tuning_width = 8        # cents: standard deviation of the smoothing
tuning_share = 0.45     # of the peaks, by weight, that have to lie near the estimate
tuning_tolerance = 8    # cents up to which a recording counts as being in A 440
tune_hertz = (392, 493)   # A that may be asked for
offset_share = 0.01     # direct current from which on it is taken out, of the RMS level without it

# notes, and the second spectrogram that they are transcribed from: bands of a third of a semitone from a longer
# transform
lowest_key = 21         # MIDI number of the piano's lowest key, A0, 27.5 Hz
n_keys = 88
pitch_n_fft = 4096
pitch_hop_length = 2 * hop_length
pitch_bands_per_key = 3
n_pitches = 312         # bands: up to 11 kHz

# instruments: SoundFont, bank and program; SoundFonts/ comes first in the search, then the system's folders
piano_preset = ("FluidR3_GM.sf2", 0, 0)     # Yamaha Grand Piano
synth_preset = ("FluidR3_GM.sf2", 0, 5)     # electric piano of a DX7
gain = 0.4              # FluidSynth's master gain; rendered wavs are then normalised to `peak`
fluidsynth_room_size, fluidsynth_room_level = 0.7, 0.5  # FluidSynth's reverberation, for presets with :room
fluidsynth_polyphony = 512
release_s = 1.0         # seconds after the last note
double_strike_s = 0.005 # a key that is struck twice within these seconds gives one note
peak = 0.99             # maximum of rendered wavs; full scale is 1

bfloat16 = True         # mixed precision in training and inference, on processors that support bfloat16

# alignment of recordings and MIDI files
max_lag_frames = 86     # largest lag between the onsets of a pair that is searched for
lag_preference = 0.9    # share of the highest correlation from which a lag of at most one frame is preferred

# simulated rooms (SimulatedRooms.py), also those of benchmarks/cases.py, whose results depend on these values
room_size = ((3.5, 3, 2.4), (30, 20, 12))           # metres
room_seconds, room_seconds_per_metre = (0.15, 0.35), 0.14   # reverberation time, and its growth with volume ** (1 / 3)
room_absorption_spread = (0.3, 1)                   # factor of that growth
room_max_absorption, room_default_absorption = 0.95, 0.4
room_distance = (0.6, 0.35)         # of the microphones: minimum in metres, maximum as a share of the longest side
room_max_order = 10                 # reflections of the image source method; later ones come from ray tracing
room_piano, room_piano_height = (0.2, 0.8), (0.7, 1.3)      # share of the room's sides; metres
room_microphone_height, room_margin = (1, 3.5), 0.2         # metres; distance from walls and ceiling at least
room_microphone_angles = (-0.1, 0.1)                        # radians, seen from the piano
room_direct_sound = 0.3             # share of the maximum at which the direct sound begins
response_seconds = 2.5

# notes and the recording: is it a piano?
explained_partials = 16         # of a note, that count as explained by it
explained_from_hz = 26          # lower frequencies do not count
explained_width = 0.03          # half a band around a partial, of its frequency
explained_before, explained_after = 0.1, 1.0    # seconds before its onset and after its offset
explained_decay_db_per_s = 3    # slowest decay of notes that began before the recording
explained_max_chunks = 10       # that are measured, spread over the recording
explained_min_share = 0.8       # of the energy; below it, the output is only as loud as what the notes explain
doubt_min_s = 2                 # seconds from which on a recording without a tuning is doubted
few_notes_per_s = 0.25          # below it, the warning says that there are few

# training, both networks
validation_share = 0.2  # share of the pieces
max_validation_pieces = 16  # largest number of these pieces that the validation loss uses
seed = 0
crop_frames = 255       # length of random crops; 0 for whole clips, as in the report
schedule = "linear"     # learning rate: warm-up, then a fall to zero; "constant" in the report
warmup_steps = 100
gradient_norm = 1.0     # maximum norm of the gradients; 0 for no limit
checkpoint_minutes = 3
few_pieces = 20         # a training on fewer pieces is only to see it run, and never becomes the default model
pace_steps = 5          # number of steps that are timed for the estimated duration of a training
log_epochs = 20         # epochs between pictures of one piece

# the report's autoencoder (report: 600 epochs, L1 loss, Adam; ae_report has the other settings of the report)
ae_epochs = 600
ae_batch_size = 16
ae_learning_rate = 2e-3
ae_channels = (256, 512, 512)
ae_report = dict(network="report", channels=(64, 128, 256), batch_size=1, crop_frames=0, schedule="constant",
                 gradient_norm=0, bfloat16=False)

# training of the note autoencoder, from the shipped weights
note_epochs = 6
note_batch_size = 4
note_learning_rate = 5e-4
scratch_learning_rate = 2e-3    # from nothing
note_piece_steps, note_min_steps, note_max_steps = 40, 400, 4000    # steps of the encoder per piece, and in all
head_epochs, head_batch_size, head_learning_rate, head_weight_decay = 4, 4, 5e-4, 0.02
head_versions, head_clips = 3, 120  # of each recording, dry and in rooms; most clips
table_epochs, table_batch_size, table_learning_rate = 6, 8, 2e-3   # of the table decoder

# note autoencoder: layers
encoder_form = dict(first=64, channels=64, stages=(1, 2, 4, 8, 16, 32), narrow=8, width=384, layers=7)
encoder_partials = (0.5, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12)    # in the pitch spectrogram, with the bands on both sides
encoder_mel_partials = (1, 2, 3, 4, 6)                      # in the mel spectrogram, which has the finer time scale
sequence_form = dict(width=64, narrow=32, kernel=5, dilations=(1, 2, 4), dropout=0.2, limit=5)
decoder_silence = -300.0    # dB of a frame without notes
decoder_min_release = 0.5   # smallest decay after key and pedal are up, dB per frame
decoder_frames = 256        # frames per call of the decoder
onset_batch_size = 1024     # onset candidates whose features are computed at once

# training clips: sounds, rooms and notes (ClipSources.py)
clip_pianos = (("FluidR3_GM.sf2", 0, 0), ("FluidR3_GM.sf2", 0, 1), ("FluidR3_GM.sf2", 0, 3), ("Salamander.sf2", 0, 0),
               ("MuseScore_General_Full.sf3", 0, 0), ("MuseScore_General_Full.sf3", 0, 1),
               ("MuseScore_General_Full.sf3", 8, 0), ("sf_GMbank.sf2", 0, 0))
clip_piano_keys = tuple(range(22, 109, 3))
clip_piano_layers = (24, 56, 88, 120)   # velocities
clip_piano_seconds = 8.0
clip_piano_attack = 176     # samples from the onset to a tenth of the peak, at most
clip_piano_fade = 2000      # samples in which a sound is faded out at its end
clip_piano_compression = 0.6    # of Vorbis, from 0, the best, to 1
clip_rooms, clip_rooms_seed = 120, 7
clip_validation_step = 20   # every so many pieces are for validation
clip_lead_s = 6.0           # before a clip, in which notes begin that may still sound
clip_pool = 16              # pianos at a time, of which one is replaced every other step
offset_loss_weight = 0.5    # beside the onsets' 1
refiner_clips_per_piano = 16    # after which a piano of the pool is replaced
refiner_guess_weight = 0.5  # of the first scores of the offset candidates, beside 1 for the final ones
refiner_level_weight = 0.1  # of the error of a clip's mean velocity, beside 1 for that of single notes

heard_share = 0.5           # of the crops of pairs, that are heard in a room
made_share = 0.5            # of the crops, that are made where there are both pairs and data/clips
head_clip_frames = 1378     # 16 s

# training clips: performances (RandomPerformances.py)
clip_exercise_share = 0.15              # of the clips; the others are parts of pieces
clip_tempo = (-0.35, 0.3)               # logarithm of the tempo factor
clip_transposition = 7                  # semitones, at most
clip_velocity_bend = (-0.6, 0.6)        # logarithm of the exponent of the velocities
clip_velocity_mean = (0.2, 0.85)        # of 127
clip_velocity_jitter = (0, 0.03, 0.06, 0.1)     # standard deviation, of 127
clip_min_velocity = 4
clip_length, clip_length_share = (-0.4, 0.2), 0.5   # logarithm of the factor of note lengths; share of the clips
clip_onset_jitter = (0, 0.005, 0.012, 0.02)     # standard deviation, seconds
clip_note_s, clip_cut_note_s = 0.03, 0.02   # shortest note; and shortest one that the next of its key cuts off
clip_no_pedal, clip_late_pedal, clip_new_pedal = 0.2, 0.45, 0.75    # cumulative shares of the parts of pieces
clip_pedal_lag = (-0.05, 0.15)          # seconds
clip_pedal_period, clip_pedal_min_period = (0.3, 1.5), 0.25     # mean seconds between changes of an added pedal
clip_pedal_changes = 64                 # of an added pedal, at most
clip_pedal_delay, clip_pedal_lift = (0.02, 0.15), (0.04, 0.15)  # seconds from an onset to pedal down; pedal up
clip_pedal_s, clip_pedal_kept = 0.05, 0.9   # shortest pedal, seconds; share of an added pedal's spans
drill_velocity, drill_velocity_range, drill_velocity_jitter = (5, 90), (0, 37), 8   # exercises: of the softest note
drill_period = (0.07, 0.6)              # seconds between onsets
drill_margin, drill_jump_margin = 6, 3  # keys between the middle of the hands and the ends of the keyboard
drill_scattered_share = 0.5             # of the exercises; the others repeat chords
drill_chord_sizes = (1, 1, 2, 3, 4, 5)
drill_jump_share, drill_octave_share = 0.3, 0.25    # of the chords
drill_key_spread = 9                    # standard deviation, semitones
drill_repetitions = (2, 13)             # of a chord, the upper bound excluded
drill_length, drill_repeated_length = (-3, 1.5), (0.3, 1)   # logarithm of seconds; share of the period
drill_onset_jitter, drill_hold_s = 0.008, 0.02  # seconds: of the notes of a chord; added to their length
drill_period_spread, drill_pause = 0.1, (0, 0.3)    # of the period's logarithm; seconds after the repetitions
drill_pedal_share, drill_pedal_spans = 0.4, (3, 20)
drill_pedal_lift = 0.1                  # seconds that the pedal is up, and shortest time that it is down

# training clips: pianos (RandomPianos.py)
piano_points = (0.1, 0.25, 0.7, 1, 2, 3, 4, 6, 9, 16, 32, 90, 400)  # of the equaliser, times the fundamental
piano_db, piano_tilt_db = 7, (-2, 2)    # largest standard deviation of the points; dB per octave
piano_key_db = (0, 3)                   # standard deviation of the points, key by key
piano_gain_db = (-40, 30)               # bounds of the equaliser
piano_faster, piano_faster_share, piano_key_decay = (0, 0.8), 0.5, 0.3  # faster decay, 1 / s; deviation over the keys
piano_decay = (-0.1, 2)                 # bounds of the decay that is added, 1 / s
piano_level_db, piano_key_level_db = 2.5, 1.2   # deviation of the level over the keyboard, and key by key
piano_curve_points = dict(decay=6, level=5, tuning=4)   # of the smooth curves over the keyboard
piano_knock_db, piano_knock_share = (-28, -53), 0.5     # noise of the action at an onset, relative to the peak
piano_knock_samples, piano_knock_fall = 3000, 90    # 1 / s
piano_plain_share = 0.15                # of the pianos that stay as they are
piano_tuning_cents = dict(curve=3, key=5, whole=8)  # standard deviations of the detuning
piano_resize, piano_resize_share = 6, 0.6   # largest shift of sounds to other keys, semitones
piano_mixed_share, piano_unison_share = 0.25, 0.5   # of pianos with a second sound; of these: of the same piano
piano_mixed_cents, piano_mixed_gain = (2, 8), (0.2, 1.0)    # of the second sound
piano_layers = 5                        # of a piano in the pool, at most
piano_level = -25                       # dB of the loudest layer in the middle of the keyboard
piano_touch = 0.25                      # standard deviation of the logarithm of the velocities' exponent
piano_layer_jitter = 6                  # standard deviation, velocity
piano_velocity_span = (-1.5, 1.2)       # between and beyond two layers, in which the level follows the velocity
piano_layer_step_db, piano_note_gain_db, piano_note_db = 2, (-30, 20), 0.7
piano_release_s, piano_release_spread = (0.02, 0.3), 0.2    # of middle C to 1 / e; spread of the logarithm
piano_release_keys = 36                 # semitones over which it doubles
piano_undamped_key, piano_undamped_s = (89, 94), 2.0    # lowest key without a damper, MIDI; its release

# training clips: rooms and microphones (RandomRooms.py)
recorded_bands = (0, 250, 1000, 4000, 12000)    # Hz: edges of the bands, each with its own reverberation time
recorded_reverberation_s, recorded_bright = (0.25, 3.2), (0.25, 1.1)    # of the lowest band; of the highest, relative
recorded_reverberation_spread = 0.15    # of the logarithm, band by band
recorded_predelay_s = (0.0, 0.04)
recorded_taps, recorded_tap_delay = 40, 20      # early reflections; samples
recorded_tap_s, recorded_tap_fall_s, recorded_taps_gain = (0.01, 0.09), (0.01, 0.06), (0, 1.2)
recorded_reverberation_db = (-12, 6)    # of the tail, relative to the direct sound
recorded_second_share, recorded_second_gain, recorded_second_s = 0.4, (0.2, 1), (0, 0.0015)     # second microphone
recorded_simulated_share = 0.5          # of the rooms, if there are simulated ones
recorded_walls, recorded_max_walls = (-2.5, 0.8), 0.5   # change of a simulated decay, 1 / s
recorded_direct_db, recorded_direct_samples = (-4, 6), 64   # change of the direct sound of a simulated room
recorded_resonance_share, recorded_resonance_db = 0.6, (-32, -8)
resonance_keys, resonance_partials, resonance_hertz = 66, 10, 8000  # strings with dampers; highest partial
resonance_inharmonicity, resonance_fall, resonance_fall_hertz = 0.0004, 1.2, 1500
recorded_room_share = 0.72
recorded_equaliser_share, recorded_equaliser_points, recorded_equaliser_db, recorded_tilt_db = 0.7, 10, (0, 5), (-9, 9)
recorded_fine_share, recorded_fine_points, recorded_fine_db = 0.5, 60, (0, 2.5)
recorded_low_pass_share, recorded_low_pass_hz, recorded_low_pass_db = 0.15, (3000, 9000), 36    # dB per octave
recorded_high_pass_share, recorded_high_pass_hz, recorded_high_pass_db = 0.15, (40, 200), 18
recorded_compression_share, recorded_compression = 0.3, (0.05, 0.25)    # exponent of the power
recorded_compression_block, recorded_compression_blocks = 64, (8, 100)  # samples; half the blocks that it averages
recorded_clipping_share, recorded_clipping = 0.08, (0.25, 0.9)          # of the peak
recorded_noise_share, recorded_noise_db = 0.6, (-70, -22)
recorded_noise_waves, recorded_noise_wave_share = 20, 0.3   # points of a level that changes; share of the clips
recorded_hum_share, recorded_hum, recorded_hum_hertz = 0.1, (10, 200), (50, 100, 150, 300)
recorded_coding_share, recorded_coding_steps, recorded_coding_hz = 0.4, (1, 14), (5000, 16000)
recorded_quieter_share, recorded_quieter_db = 0.5, 25   # of the clips; dB below full scale, at most

# note autoencoder: note-level post-processing (NoteRefinement.py)
min_note_frames = 2.5       # smallest length of a note
refiner_candidate_threshold = 0.08  # smallest onset probability of a candidate
refiner_candidate_frame_threshold = 0.1     # smallest mean probability that the key sounds after it
refiner_threshold = 0.45    # smallest probability of a note after the onset head
refiner_onset_bias = 0.1    # mean error of the onsets, which is subtracted, frames (1.2 ms)
offset_candidates = 10      # frames, of which the refiner chooses where a note ends
offset_peak_threshold = 0.02    # offset probability of a candidate
offset_sounding_thresholds = (0.6, 0.3)     # below which the key seems to sound no more
offset_sounding_lags = (-16, -8, -4, -2, 0, 2, 4, 8, 16, 32)    # frames around a candidate that the refiner looks at
offset_tolerance, refiner_min_tolerance = 0.2, 4.3  # of a note's duration; frames (50 ms), if that is more
offset_longer = 0.2         # exponent of the duration, with which the probability of an offset candidate is multiplied
offset_distance_weight = 0.5    # of the distance of logarithmic durations, beside 1 for offsets within the tolerance
refiner_details = 24        # principal components of the encoder's last layer, per key and step
detail_components_threshold = 0.1   # output of the encoder above which a key's values count for these components
detail_clips = 40           # from which they are computed
detail_onset_spans = (-8, -3), (-3, -1), (-1, 0), (0, 1), (1, 2), (2, 4), (4, 10)   # steps around an onset candidate
detail_other_keys = (-12, 12, 19)   # semitones to keys of which the refiner sees details too
detail_other_span = -1, 2
detail_offset_spans = (-8, -3), (-3, -1), (-1, 0), (0, 1), (1, 3), (3, 8)           # steps around an offset candidate
detail_begin_spans = (-3, 0), (0, 1), (1, 4), (4, 12)       # steps around the onset of the note whose offset is sought
reverberation_delay_s, reverberation_decay_s = 0.05, 0.06   # of the late reverberation that is subtracted
reverberation_share, reverberation_floor = 0.9, 0.1         # of the estimated power; of the power, which is left
refiner_harmonics = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12)    # partials whose rise tells how hard a note was struck
refiner_onset_features, refiner_offset_features, refiner_velocity_features = 210, 37, 32
refiner_order_features, refiner_partial_features, refiner_phase_features = 3, 37, 2
no_candidate = -30.0        # score where a note has fewer offset candidates
refiner_min_notes = 8       # fewer have no curve over the keys
velocity_per_db = 0.05      # growth of the logarithmic velocity per dB of a note's level at its onset
velocity_scale = 0.3        # of the velocity's logarithm, the unit in which it is corrected
order_s = (0.003, 3)        # between the onsets of two notes in a row, bounds in the features
overlap_s = 0.04            # between onsets of notes that hide each other

# note autoencoder: labels and loss
onset_width = 2.5           # frames over which the label of an onset falls to zero, on both sides
frame_loss_weight = 0.3     # relative to a weight of 1 for onsets
velocity_loss_weight = 4
absolute_velocity_weight = 0.25     # relative to a weight of 1 for velocities relative to the mean of the crop
decoder_loss_from = 0.25    # smallest level in the target, of 1, that counts for the level that fits best
decoder_clipped_slope = 0.01    # slope of the decoder's loss where its output lies below the range
level_loss_weight = 0.02    # weight of the level error of a crop in the decoder's loss

# sampled voice: the target's own sounds (SampledVoice.py, Scale.py)
voice_layers = (32, 64, 96, 127)        # velocities at which every key is recorded
voice_velocities = (1, 16, 32, 48, 64, 80, 96, 112, 127)    # at which its level and release are measured
voice_seconds = (9.0, 3.5)  # that are stored of the lowest and the highest key
voice_range_db = 80         # below its peak, at which a sound has died away
voice_bytes = 20e6          # most that all sounds may need; else every second key is stored, or every third
voice_same_layer = 0.1      # distance of layers, of their norm, below which they are one sound, louder or softer
voice_slot = 28224          # samples between notes of the scale: whole milliseconds, and blocks of FluidSynth's 64
voice_long_slots = 8        # for a note that is held
voice_pause = 2205          # samples before the next note, in which all is silent
voice_held_s = 0.3          # of the short notes
voice_level_s = 0.25        # of a note, over which its level is measured
voice_release_block, voice_release_fit_db = 220, 40     # samples, and dB of its fall, that the release is measured in
voice_release_limits_s = (0.005, 5.0)
voice_default_release_s = 0.05
voice_release_lengths = 8   # after so many times the release a note is left out: 69 dB
voice_delay = 44            # samples that FluidSynth is later with a note in the mean than with those of the scale
voice_taps = 16             # of the interpolation between samples
voice_loop_s, voice_loop_fade = 1.0, 2048   # of a sound's end, repeated if a note is longer; samples
voice_processes = 2         # FluidSynths at once

# U-Net (report: 50 epochs, Adam; what differs lies in unet_report)
unet_epochs = 50
note_unet_epochs = 10   # epochs behind the note autoencoder
unet_batch_size = 8
unet_learning_rate = 1e-3
unet_depth = 4
unet_wf = 5             # 2**wf channels in the first layer
unet_in_channels = 2    # autoencoder's output and recording; 1 for the first alone
unet_residual = False   # connect the input to the last layer
unet_batch_norm = True
unet_loss = "l1"
unet_gain_frames = 257  # behind a sampled voice: its correction is a gain, smoothed over so many frames
unet_gain_db = 15       # at most
unet_report = dict(wf=6, in_channels=1, residual=False, batch_norm=False, loss="mse",
                   batch_size=1, crop_frames=0, schedule="constant", gradient_norm=0, bfloat16=False)

# mel spectrogram -> audio
inversion = "kl"        # "report": librosa's NNLS and Griffin-Lim from random phase
silence_threshold = 0.02    # largest output of a network that counts as silence: 1.6 of 80 dB
kl_iterations = 40
kl_floor = 1e-4         # added to the starting spectrum, relative to each frame's maximum
griffin_lim_iterations = 32
griffin_lim_momentum = 0.99
voice_kl = dict(kl_iterations=8, kl_floor=1e-8)     # from the spectrum of a sampled voice, which is nearly the one
voice_griffin_lim_iterations = 4                    # from its phase
report_iterations = 32  # of the report's Griffin-Lim
chunk_frames = 2592     # most frames of a recording that are worked on at once: 30 s and a little, a multiple of 8
long_chunk_frames = 1728    # the same where a recording has several chunks; with their context they are as long
context_frames = 448    # more frames on both sides, so that a chunk comes out as it would within the whole
decode_frames = 4 * chunk_frames    # frames of a recording whose notes are decoded at once
decode_ahead = chunk_frames         # more frames after them, in which their notes may end
fade_frames = 16        # over which one chunk fades into the next
stereo_frames = 43      # over which the level of a channel is measured, band by band
stereo_limit = 16       # times the power of the mean, at most

# evaluation
onset_tolerance_s = 0.05    # between a true onset and the one that is found
chord_s = 0.03              # onsets within it count once
max_note_shift_s, note_shift_step_s = 0.024, 0.004  # by which all notes of a transcription may be shifted together
min_scored_s = 0.02         # shortest note of the note metrics
distance_n_fft = (512, 1024, 2048)  # of the normalised spectral distance
texture_n_fft, texture_hop_length, texture_mels = 512, 64, 40   # envelopes of the texture distance
texture_exponent = 0.6              # that compresses their magnitude
texture_hertz = (2, 4, 8, 16, 32, 64, 128)  # edges of its octaves of modulation
max_lag_s = 5               # by which a recording may begin earlier or later than its MIDI file

# paths, which do not depend on the working directory
root = Path(__file__).resolve().parent
data = root / "data"
models = data / "models"
soundfonts = root / "SoundFonts"
system_soundfonts = (
    Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3"), Path("/usr/share/soundfonts"),
    Path("/usr/local/share/soundfonts"), Path("/usr/local/share/fluidsynth"), Path("/opt/homebrew/share/soundfonts"),
    Path("/opt/homebrew/share/fluid-synth/sf2"),
)
salamander = "Salamander.sf2"   # SoundFonts/salamander.py makes it
soundfont_packages = {  # of Debian and Ubuntu
    "FluidR3_GM.sf2": "fluid-soundfont-gm", "TimGM6mb.sf2": "timgm6mb-soundfont",
    "MuseScore_General_Full.sf3": "musescore-general-soundfont", "MuseScore_General.sf3": "musescore-general-soundfont",
    "sf_GMbank.sf2": "csound-soundfont",
}
ae_weights = root / "ae.torch"
unet_weights = root / "unet.torch"
demo = data / "demo" / "mozart_rondo_alla_turca.wav"
