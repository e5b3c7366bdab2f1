"""Values -> text: the only place that turns agent text into markup."""
