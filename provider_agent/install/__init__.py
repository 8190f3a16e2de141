"""Install, upgrade and uninstall a host's agent: a signed bundle, a plan that is data, a record.

Law: all but `bundle` and `sshsig` import the standard library and our own errors alone, because
they run from a zipapp on the system's Python, before any library of ours is there.
"""
