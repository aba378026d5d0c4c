"""The data of `imgproxy demo`: the sample photos, and what its tour shows."""
