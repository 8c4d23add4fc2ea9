"""The exchange: finished versions of the student's modules, through which several workers train one student."""
