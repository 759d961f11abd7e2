"""What owners may still spend: token buckets, reservations, and what answers teach about them."""
