"""Time, memory and accuracy beside other libraries, and at size; `python -m benchmarks` lists them."""
