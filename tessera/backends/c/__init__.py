"""The C backend: emitted source, the compiler found at run time, libraries loaded in this process."""
