"""What a host earns and why: receipts kept, statements, prices, maintenance."""
