"""Published VAEs of diffusers behind the protocol."""
