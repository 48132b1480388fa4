"""Any feed-forward net is a DRMM: the same parameters, seen from the other side (`drmm.lift`)."""
