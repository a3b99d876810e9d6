"""The texts of the C intrinsics, by family."""
