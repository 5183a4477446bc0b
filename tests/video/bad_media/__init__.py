"""A corpus of bad media: made in seconds with ffmpeg and by editing bytes; each file has its expected class."""
