"""An image proxy between a CDN and a Livingdocs Media Library: imgix URLs in, libvips pixels out, purges that hold."""

__version__ = "0.1.0"
