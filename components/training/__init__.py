"""Loss, optimizer, schedule, the loop; `ray_train` alone hands it to Ray Train."""
