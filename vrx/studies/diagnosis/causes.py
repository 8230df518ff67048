"""The three causes of an error that the diagnosis tells apart (4.4)."""

SHARED = "shared"  # (1) concepts that both classes share
FALSE_ALARM = "false alarm"  # (2) false alarm in concept detection
UNSEEN = "unseen"  # (3) structure or viewpoint that training does not show
ERROR_CAUSES = (SHARED, FALSE_ALARM, UNSEEN)
