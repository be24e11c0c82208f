-- What a prediction is: 'served' counts as the head's answer; 'shadow' was scored beside it by a challenger, for comparison; 'rebuilt' was
-- computed after the fact, and never counts as a prediction.
ALTER TABLE predictions ADD COLUMN role TEXT NOT NULL DEFAULT 'served';
