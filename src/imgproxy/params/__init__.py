"""Text in, plan out: the imgix URL grammar, its signature and content negotiation. No I/O, no clock, no pixels."""
