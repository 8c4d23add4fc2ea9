"""A Whisper with half of its decoder, or less: what does it cost in words?"""
