"""Pictures made by a graphics processor's own decoder, and when they are believed."""
