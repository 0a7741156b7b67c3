"""What CUDA C++ kernels share: headers, and how what is made with them is cut and launched."""
