"""Sounds that are made: MIDI files through FluidSynth and SoundFonts, training clips of random pianos and rooms.

May import `audio`, `notes`, `DatasetCreator`. Is imported by `MIDI2Audio`, `AEDataset` and more.
"""
