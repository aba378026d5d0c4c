"""From a URL to a render plan: the imgix grammar, signatures, content negotiation. No I/O, no clock, no pixels."""
