"""From Python to IR: annotations, argument specs, traced tensors and sizes, functionalised updates,
definition-time checks.
"""
