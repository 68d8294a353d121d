"""The stage that decodes every segment once: shots, clips, measurements, previews."""
