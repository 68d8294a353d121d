"""Where bytes come from: local files, object stores, http(s), members of tars."""
