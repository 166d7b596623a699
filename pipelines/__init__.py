"""The library on a cluster: Ray Data graphs, actor classes, Ray Train workers.

Worker code lives here, never in an entry script: what is defined in `__main__` pickles by value.
"""
