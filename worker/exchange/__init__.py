"""The exchange: finished versions of the student's modules, through which several workers train one student.

The worker does not use it yet: today each worker trains a student of its own.
"""
