"""Reading a film of the world back: what is drawn in frames, by what is known of the drawing."""
