# The gdb commands of vm/lost-kill.sh, which sets the addresses and $lose, and connects. gdb shows each CPU of the guest as a
# thread; while scheduler-locking is on, only the selected one runs.
set pagination off
set confirm off
set scheduler-locking off

# The guest repeats this call until it fails.
hbreak *$__x64_sys_sethostname
continue
delete
set $pc = *(unsigned long *)$rsp
set $rsp = $rsp + 8
set $rax = -5

# A thread of the child execs, and has not started to replace the leader: de_thread() does that, within this function.
hbreak *$begin_new_exec
# The last close has looked up the leader, and is about to send it SIGKILL (9) from the kernel (SEND_SIG_PRIV, 1).
hbreak *$do_send_sig_info if $rdi == 9 && $rsi == 1

# The CPU that arrives first waits for the other.
continue
if $pc == $begin_new_exec
  set $closing = 3 - $_thread
else
  set $closing = $_thread
end
set $execing = 3 - $closing
set $other = 3 - $_thread
set scheduler-locking on
thread $other
continue
delete
printf "lost-kill: CPU %d is in begin_new_exec(), CPU %d in do_send_sig_info()\n", $execing - 1, $closing - 1

if $lose
  # The exec continues alone, past de_thread(), which releases the leader that was looked up.
  thread $execing
  tbreak *$unshare_files
  continue
  printf "lost-kill: CPU %d has reached unshare_files(), with CPU %d held\n", $execing - 1, $closing - 1
end

# The close continues alone, until do_send_sig_info() returns.
thread $closing
tbreak **(unsigned long *)$rsp
continue
printf "lost-kill: do_send_sig_info() = %d\n", (int)$rax
set scheduler-locking off
detach
quit
