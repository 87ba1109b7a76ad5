"""What a conversion leaves behind: its options, names of its files and their marks, pictures, the page to listen to.

May import `audio`, `notes`, `rendering`, `MIDI2Audio`. Is imported by `Main`, `Evaluation`, `app` and more.
"""
