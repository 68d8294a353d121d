"""What is measured of a clip: camera and object motion, sharpness, exposure, text, a video hash."""
