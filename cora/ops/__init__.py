"""Operations: one file each with signature, checks and dispatch; `cora.ops.reference` holds the plain truth.

Import an operation from its own module: ``from cora.ops.erp_to_views import erp_to_views``.
"""
