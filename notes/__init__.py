"""The latent of the note autoencoder, a list of notes: how it is transcribed from a recording, and how it is played.

Encoder, heads and post-processing, sampled voice and table of spectra, transcription of a recording of any length, MIDI
files. May import `audio`, `DatasetCreator`. Is imported by `AEModel`, `MIDI2Audio`, `Main` and more.
"""
