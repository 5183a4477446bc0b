"""Search of clips by text, picture or video: the index on disk, its queries, its server, and vectors of a folder of videos."""
