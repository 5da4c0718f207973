"""Many questions about many videos: rows in one file, results in another, resumable."""
