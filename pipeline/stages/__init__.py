"""The stages that make one shard of one column: caption, text, embed, encode; and the protocol of a stage."""
