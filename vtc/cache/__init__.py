"""What was computed of a video, on disk, so that the next question need not compute it again."""
