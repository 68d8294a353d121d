"""How one tells that a stream is damaged: by its packets, by what decoders say, and by its pictures."""
