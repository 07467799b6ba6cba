# What the R peers share: reading the cells, and writing what was estimated and how long it took.
#
# Arguments: cells.csv (text factors, numerics as they enter the model, num_trials, num_successes), right-hand side of the
# formula, output prefix, then what the script itself takes. Writes PREFIX.parameters.csv (variable, level, mean, sd) and
# PREFIX.timing.csv (stage, seconds).

arguments <- commandArgs(trailingOnly = TRUE)
output <- arguments[3]
seconds <- c()

timed <- function(stage, expression) {
  start <- proc.time()[["elapsed"]]
  value <- force(expression)
  seconds[[stage]] <<- proc.time()[["elapsed"]] - start
  value
}

read_cells <- function() {
  header <- names(read.csv(arguments[1], nrows = 1, check.names = FALSE))
  numeric_columns <- strsplit(arguments[4], ",")[[1]]
  classes <- ifelse(header %in% numeric_columns, "numeric", "factor")
  read.csv(arguments[1], colClasses = classes, check.names = FALSE)
}

model_formula <- function() as.formula(paste("cbind(num_successes, num_trials - num_successes) ~", arguments[2]))

# `effects`: list of data frames per group (one column, levels as row names); `effect_sds`: the same, or NULL.
write_results <- function(fixed, fixed_sds, effects, effect_sds, scales) {
  rename <- function(names) sub("(Intercept)", "Intercept", names, fixed = TRUE)
  rows <- data.frame(variable = rename(names(fixed)), level = "", mean = unname(fixed), sd = unname(fixed_sds))
  for (group in names(effects)) {
    rows <- rbind(rows, data.frame(variable = paste0("1|", group), level = rownames(effects[[group]]),
                                   mean = effects[[group]][[1]], sd = effect_sds[[group]][[1]]))
  }
  rows <- rbind(rows, data.frame(variable = paste0("sd(1|", names(scales), ")"), level = "", mean = unname(scales), sd = NA))
  write.csv(rows, paste0(output, ".parameters.csv"), row.names = FALSE)
  write.csv(data.frame(stage = names(seconds), seconds = unlist(seconds)), paste0(output, ".timing.csv"), row.names = FALSE)
}
