"""Reading tables: parts, what was committed of a shard, the plan, whole tables."""
