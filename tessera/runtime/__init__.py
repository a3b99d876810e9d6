"""What runs beside the kernels: the artifact cache, the memory pool, dispatch and profiling."""
