# The debugger's part of vm/lost-kill.sh, which sets the addresses and $lose, and connects. A thread of gdb is a processor of the guest; while scheduler-locking is on, only the chosen one runs.
set pagination off
set confirm off
set scheduler-locking off

# The guest makes this call until it is refused.
hbreak *$__x64_sys_sethostname
continue
delete
set $pc = *(unsigned long *)$rsp
set $rsp = $rsp + 8
set $rax = -5

# The child's thread execs, and has not begun to take over the leader's place: de_thread() does that, in this function.
hbreak *$begin_new_exec
# The last close has looked up the leader, and is about to send it SIGKILL (9) in the kernel's name (SEND_SIG_PRIV, 1).
hbreak *$do_send_sig_info if $rdi == 9 && $rsi == 1

# Whichever comes first waits for the other.
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
  # The exec goes on alone, past de_thread(): the leader that was looked up is gone.
  thread $execing
  tbreak *$unshare_files
  continue
  printf "lost-kill: CPU %d has reached unshare_files(), with CPU %d held\n", $execing - 1, $closing - 1
end

# The close goes on alone, until the signal is sent, or not.
thread $closing
tbreak **(unsigned long *)$rsp
continue
printf "lost-kill: do_send_sig_info() = %d\n", (int)$rax
set scheduler-locking off
detach
quit
