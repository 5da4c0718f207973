"""Many questions about many videos: rows in a file, results in another, resumed after any end."""
