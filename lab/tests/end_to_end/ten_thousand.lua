-- wrk sends for a time, not a number of requests. Here it sends exactly 10,000, each on a connection of its own; the
-- connections it opens after the last answer stay idle until it is stopped. So no request is ever cut off, and there are as
-- many connections as requests and idle ones.
local left = 10000
wrk.headers["Connection"] = "close"

function delay()
   if left == 0 then return 3600000 end
   left = left - 1
   return 0
end

function done(summary)
   local errors = summary.errors
   io.write(string.format("requests=%d errors=%d\n", summary.requests,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
