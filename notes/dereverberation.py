"""Spectrograms without late reverberation, for the second run of the encoder."""
import numpy as np

import DatasetCreator

reverberation_delay_s = 0.05    # delay of the late reverberation
reverberation_decay_s = 0.06    # its decay
reverberation_share = 0.9       # share of its estimated power that is subtracted
reverberation_floor = 0.1       # share of the power that is left at least


def reduce_reverberation(image, step):
    """Return a spectrogram [shape=(bands, t), in [0, 1]] without its late reverberation; frames are `step` s apart. The
    power of the reverberation in each band is the mean of all that is older than `reverberation_delay_s`, with a weight
    that decays in `reverberation_decay_s` (Lebart, Boucher and Denbigh 2001, "A new method based on spectral
    subtraction for speech dereverberation")."""
    power = DatasetCreator.mel_from_log(image).T.copy()
    decay, delay = np.float32(np.exp(-step / reverberation_decay_s)), max(round(reverberation_delay_s / step), 1)
    late = np.zeros_like(power)
    for frame in range(delay, len(power)):
        late[frame] = decay * late[frame - 1] + (1 - decay) * power[frame - delay]
    dry = np.maximum(power - reverberation_share * late, reverberation_floor * power)
    return DatasetCreator.log_mel(dry, 1).T.copy()
