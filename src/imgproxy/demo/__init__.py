"""The demo: the embedded Media Library and the edge in front of it, in one process, over a folder of pictures."""
