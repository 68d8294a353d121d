"""What of a caption is believed: refusals, repetition, contradictions of the measurements, slots of facts."""
