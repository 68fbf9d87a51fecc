"""What MDMT costs beside a bare PyTorch loop and a stock Flower app on the same work.

``bare`` and ``plain_flower`` are what we are compared with, ``jobs`` is what runs in processes of
its own, ``rows`` says what is compared with what, and the rest runs, measures and prints.
"""
