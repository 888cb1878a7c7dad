"""What is there for speed alone: each module computes what a plain expression of torch computes, within rounding.

Each says what it replaces and when it can go; tests/kernels holds it to the plain expression.
"""
