"""The verbs that train, plan and export: their options, and what they start."""
