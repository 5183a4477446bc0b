"""A corpus of bad media: made in seconds with ffmpeg and byte surgery, every file with the class that it must get."""
