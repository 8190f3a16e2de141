"""What keeps this machine from being offered, read without a market and without a VM.

Rules:
- Every file is read below one root, and everything else is asked of one `Probe`: a test lays out
  any machine.
- What could not be read is *unknown*, which is no pass; nothing is ever assumed in its place.
- A row is data and one pure function. It judges; it changes nothing.
"""
